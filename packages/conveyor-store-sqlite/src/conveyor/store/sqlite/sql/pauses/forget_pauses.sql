delete from conveyor_pauses
 where queue = :queue
   and resumes_at <= :now
