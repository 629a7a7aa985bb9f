select clock_timestamp() at time zone 'UTC'
