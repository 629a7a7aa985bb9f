-- Groups to look at again; those parked for longer than a window were so by a clock that was set back. Their
-- lanes follow in a statement after this one, as in end_group_pauses.sql.
with over as (
  select grp
    from {schema}.conveyor_groups
   where queue = %(queue)s
     and parked_for = %(rate)s
     and parked_for <> ''
     and parked_until <= %(now)s
  union all
  select grp
    from {schema}.conveyor_groups
   where queue = %(queue)s
     and parked_for = %(rate)s
     and parked_for <> ''
     and parked_until > %(latest)s
),
locked as materialized (
  select g.grp
    from over o
    join {schema}.conveyor_groups g
      on g.grp = o.grp
   where g.queue = %(queue)s
     and g.parked_for = %(rate)s
     and (g.parked_until <= %(now)s or g.parked_until > %(latest)s)
   order by g.grp
     for update of g
)
update {schema}.conveyor_groups g
   set parked_for = '',
       parked_until = null
  from locked l
 where g.queue = %(queue)s
   and g.grp = l.grp
returning g.grp
