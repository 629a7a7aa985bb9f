-- Pauses of groups that are over, and which groups go on. Groups are locked in order, as by all who lock several;
-- their lanes follow in a statement after this one, which sees those that were made until the locks were had.
with ended as (
  delete from {schema}.conveyor_pauses
   where queue = %(queue)s
     and kind = 'group'
     and until <= %(now)s
  returning target
),
locked as materialized (
  select g.grp
    from {schema}.conveyor_groups g
    join ended e
      on e.target = g.grp
   where g.queue = %(queue)s
   order by g.grp
     for update of g
)
update {schema}.conveyor_groups g
   set paused = false
  from locked l
 where g.queue = %(queue)s
   and g.grp = l.grp
returning g.grp
