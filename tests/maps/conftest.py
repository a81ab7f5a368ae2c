"""Let the tests of this room import `map_folders`, which stands beside them."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
