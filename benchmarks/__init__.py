"""bnexport beside what one would use instead, measured in the same run; README.md says how to run them and what came out."""
