-- What a claim has to know first: whether the queue is paused, which names are, its picks so far,
-- and whether any job of a group is waiting.
select
  (
    select coalesce(resumes_at, '')
      from conveyor_pauses
     where queue = :queue
       and kind = 'queue'
       and (resumes_at is null or resumes_at > :now)
  ),
  (
    select json_group_array(target)
      from conveyor_pauses
     where queue = :queue
       and kind = 'name'
       and (resumes_at is null or resumes_at > :now)
  ),
  (select picks from conveyor_queues where queue = :queue),
  (select ungrouped_last_served from conveyor_queues where queue = :queue),
  exists (select 1 from conveyor_subqueues where queue = :queue)
