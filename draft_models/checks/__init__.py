"""What `aerie-draft check` looks at, one module per subject; each is a function from facts to findings."""
