"""One module per technology, thin, each passing the contract of its port."""
