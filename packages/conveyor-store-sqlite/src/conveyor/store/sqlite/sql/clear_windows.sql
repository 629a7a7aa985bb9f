delete from conveyor_windows
 where queue = :queue
