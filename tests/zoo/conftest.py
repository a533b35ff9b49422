"""The zoo needs an environment of its own (requirements.txt): elsewhere it is left out.

Where transformers is installed, nothing is skipped: a package that is missing there
fails its tests.
"""

import importlib.util

# Models are imported by the tests that need them: their packages warn on import.
collect_ignore = ["models", "table.py"]
if importlib.util.find_spec("transformers") is None:
    collect_ignore_glob = ["*.py"]
