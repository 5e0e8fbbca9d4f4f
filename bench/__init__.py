"""The load generator, its report, and the raw floors that the results are compared with."""
