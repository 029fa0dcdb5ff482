"""Another spelling of `python -m distsynth.synthesise`."""

from distsynth.synthesise import entry

if __name__ == "__main__":
    entry()
