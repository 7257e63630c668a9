"""The mutation check: each guard is taken away in turn, and some test has to notice."""
