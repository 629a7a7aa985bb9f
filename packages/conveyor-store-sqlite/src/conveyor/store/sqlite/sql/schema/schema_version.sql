select coalesce(max(version), 0)
  from conveyor_migrations
