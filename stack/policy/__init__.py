"""Who must agree before something is done, and whether they did. Decisions are pure; signatures are OpenSSH's.

``statement`` is what is signed, ``sshsig`` checks it, ``decision`` counts. Nothing here writes anything down.
"""
