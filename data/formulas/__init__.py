"""Lists of formulas: reading, mining and recombining them."""
