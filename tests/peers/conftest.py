"""The adapters are found from here: they belong to the tests, not to the package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
