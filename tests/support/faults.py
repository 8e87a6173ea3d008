"""``@fault(17)``: this test shows how the product meets fault 17 of the catalogue."""

import pytest

fault = pytest.mark.fault
