"""The operator's command ./fleet: looks at a stack and moves it by hand, without the engine."""
