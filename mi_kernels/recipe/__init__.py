"""What is merged how: lam, masks, rules, recipes of several models, and mergekit's configurations."""
