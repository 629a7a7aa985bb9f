delete from conveyor_pauses
 where queue = :queue
   and until <= :now
