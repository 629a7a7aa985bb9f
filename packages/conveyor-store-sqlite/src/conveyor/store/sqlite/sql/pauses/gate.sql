-- What a claim has to know first: whether the queue is paused, which names are, the turns of its groups,
-- and whether any job of a group is waiting.
select
  (
    select coalesce(until, '')
      from conveyor_pauses
     where queue = :queue
       and kind = 'queue'
       and (until is null or until > :now)
  ),
  (
    select json_group_array(target)
      from conveyor_pauses
     where queue = :queue
       and kind = 'name'
       and (until is null or until > :now)
  ),
  (select turns from conveyor_queues where queue = :queue),
  (select served from conveyor_queues where queue = :queue),
  exists (select 1 from conveyor_lanes where queue = :queue)
