-- Groups to look at again; those throttled for longer than a window were so by a clock that was set back. Their
-- sub-queues follow in a statement after this one, as in end_group_pauses.sql.
with over as (
  select grp
    from {schema}.conveyor_groups
   where queue = %(queue)s
     and throttled_for = %(rate)s
     and throttled_for <> ''
     and throttled_until <= %(now)s
  union all
  select grp
    from {schema}.conveyor_groups
   where queue = %(queue)s
     and throttled_for = %(rate)s
     and throttled_for <> ''
     and throttled_until > %(latest)s
),
locked as materialized (
  select grp
    from {schema}.conveyor_groups
   where queue = %(queue)s
     and grp = any(array(select grp from over))
     and throttled_for = %(rate)s
     and (throttled_until <= %(now)s or throttled_until > %(latest)s)
   order by grp
     for update
)
update {schema}.conveyor_groups
   set throttled_for = '',
       throttled_until = null
 where queue = %(queue)s
   and grp = any(array(select grp from locked))
returning grp
