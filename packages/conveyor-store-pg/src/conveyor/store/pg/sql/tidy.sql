-- What need not be remembered: ended pauses (those of groups end in end_group_pauses.sql), old tombstones.
with over as (
  delete from {schema}.conveyor_pauses
   where queue = any(%(queues)s::text[])
     and kind <> 'group'
     and until <= %(now)s
)
delete from {schema}.conveyor_tombstones
 where queue = any(%(queues)s::text[])
   and at <= %(horizon)s
