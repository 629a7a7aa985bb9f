select coalesce((select seq from sqlite_sequence where name = 'conveyor_events'), 0)
