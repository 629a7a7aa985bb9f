-- The children, in whatever queue, that have not released their parent.
select count(*)
  from {schema}.conveyor_jobs
 where parent_queue = %(queue)s
   and parent_id = %(id)s
   and not released
