"""`python -m unmixcli` is the `unmix` command."""

from unmixcli.cli import main

if __name__ == "__main__":
    main()
