-- Pauses of groups that are over, and which groups go on. Groups are locked in order, as by all who lock several;
-- their sub-queues follow in a statement after this one, which sees those that were made until the locks were had.
with ended as (
  delete from {schema}.conveyor_pauses
   where queue = %(queue)s
     and kind = 'group'
     and resumes_at <= %(now)s
  returning target
),
locked as materialized (
  select grp
    from {schema}.conveyor_groups
   where queue = %(queue)s
     and grp = any(array(select target from ended))
   order by grp
     for update
)
update {schema}.conveyor_groups
   set paused = false
 where queue = %(queue)s
   and grp = any(array(select grp from locked))
returning grp
