"""Test suites for those who extend mobconv; they need pytest."""

import pytest

# failing assertions of the suites are explained as those of a test file are
pytest.register_assert_rewrite("mobconv.testing.backend_conformance", "mobconv.testing.comparing")
