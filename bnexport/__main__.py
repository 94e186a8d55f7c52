"""`python -m bnexport` is the command `bnexport`."""

from bnexport.cli import main

if __name__ == "__main__":
    main(prog_name="bnexport")
