"""What one is told who asks for int8 and has not the extra."""

import subprocess
import sys

CODE = """
import sys
sys.modules["openvino"] = None  # as if it were not installed
from realm_core.engines.quantization import prepare_int8
from realm_core.errors import UsageError
try:
    prepare_int8(None, "", None)
except UsageError as error:
    print(error)
"""


def test_the_error_says_what_to_install():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert "--precision int8: no package openvino" in done.stdout
    assert "pip install 'realm-at-scale[int8]'" in done.stdout
