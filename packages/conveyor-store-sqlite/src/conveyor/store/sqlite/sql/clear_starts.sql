delete from conveyor_starts
 where queue = :queue
