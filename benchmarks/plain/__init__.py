"""Plain forms: readable transcriptions of definitions and procedures, what the lean forms are measured against."""
