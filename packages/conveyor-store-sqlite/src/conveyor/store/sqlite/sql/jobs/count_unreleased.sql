-- The children, in whatever queue, that have not released their parent.
select count(*)
  from conveyor_jobs
 where parent_queue = :queue
   and parent_id = :id
   and parent_id is not null
   and released = 0
