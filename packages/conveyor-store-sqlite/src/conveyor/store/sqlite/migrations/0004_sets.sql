-- Sets of jobs. Each index ends with the row's number, which is the order in which jobs were added. One for each
-- state, and none for all: a statement that finds its rows by something else must not go by their state instead.

-- The jobs of a state, as they were added: Order.ADDED and NEWEST; those that wait for children have theirs.
create index conveyor_jobs_all_waiting
  on conveyor_jobs (queue, state)
  where state = 'waiting';

create index conveyor_jobs_all_delayed
  on conveyor_jobs (queue, state)
  where state = 'delayed';

create index conveyor_jobs_all_active
  on conveyor_jobs (queue, state)
  where state = 'active';

create index conveyor_jobs_all_completed
  on conveyor_jobs (queue, state)
  where state = 'completed';

create index conveyor_jobs_all_failed
  on conveyor_jobs (queue, state)
  where state = 'failed';

create index conveyor_jobs_all_cancelled
  on conveyor_jobs (queue, state)
  where state = 'cancelled';

-- Waiting jobs with a group, whatever their lanes: Order.CLAIM.
create index conveyor_jobs_waiting_grouped
  on conveyor_jobs (queue, rank, place, state, grp)
  where state = 'waiting' and grp is not null;

-- The jobs of a group: Where.group.
create index conveyor_jobs_group
  on conveyor_jobs (queue, grp)
  where grp is not null;
