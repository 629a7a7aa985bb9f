delete from conveyor_events
 where at <= :horizon
