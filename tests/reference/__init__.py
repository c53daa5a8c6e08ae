"""Plain forms: definitions and procedures written out readably, which tests and benchmarks hold fast forms against."""
