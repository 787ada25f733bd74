"""What file ledgers in SQL databases share: rows as records, rules, schema steps; no database."""
