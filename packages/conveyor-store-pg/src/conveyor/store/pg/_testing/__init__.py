"""How `conveyor.store.pg.testing` comes by its servers. What tests use is there."""
