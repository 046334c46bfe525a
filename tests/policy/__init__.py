"""Who may do what: signatures, decisions, freeze windows, and that nothing is left out."""
