delete from conveyor_pauses
 where queue = :queue
   and kind = :kind
   and target = :target
