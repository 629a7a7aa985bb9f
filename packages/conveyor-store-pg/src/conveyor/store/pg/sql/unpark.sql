-- Groups to look at again; those parked for longer than any window were so by a clock that was set back. Their
-- lanes follow in a statement after this one, as in end_group_pauses.sql.
with locked as materialized (
  select grp
    from {schema}.conveyor_groups
   where queue = %(queue)s
     and parked_for <> ''
     and (parked_until <= %(now)s or parked_until > %(latest)s)
   order by grp
     for update
)
update {schema}.conveyor_groups g
   set parked_for = '',
       parked_until = null
  from locked l
 where g.queue = %(queue)s
   and g.grp = l.grp
returning g.grp
