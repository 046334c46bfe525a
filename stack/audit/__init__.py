"""The audit log: what was done, by whom, to what, with which result; a hash chain, checkable by anybody who has it.

``record`` is what is said, ``chain`` how it is bound together (pure), ``append`` the way into the store.
A chain can't see its own tail cut off: compare its head with one that was kept elsewhere.
"""
