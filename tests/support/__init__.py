"""What tests share: fixtures and helpers, no tests."""
