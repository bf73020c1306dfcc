"""Run the program by a mock engine, or as a real stack under load: for policies/, benchmarks/ and tests/."""
