-- Groups to look at again; those parked for longer than any window were so by a clock that was set back.
with groups as materialized (
  select grp
    from {schema}.conveyor_groups
   where queue = %(queue)s
     and parked_for <> ''
     and (parked_until <= %(now)s or parked_until > %(latest)s)
   order by grp
     for update
),
unparked as (
  update {schema}.conveyor_groups g
     set parked_for = '',
         parked_until = null
    from groups u
   where g.queue = %(queue)s
     and g.grp = u.grp
)
update {schema}.conveyor_lanes l
   set parked_for = ''
  from groups u
 where l.queue = %(queue)s
   and l.grp = u.grp
   and l.parked_for <> ''
