"""What the tests of the suite are made with."""
