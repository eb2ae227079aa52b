"""Parameters that other code bases trained, as parameters of this one."""
