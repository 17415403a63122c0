# Settings of Ray on every machine of a cluster, for Ray and for the commands that use it.
export RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=0
# A driver on the head must be reachable from the other machines, not only on the loopback interface.
export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=1
# A dead machine is detected within about ten seconds; by Ray's defaults it takes minutes.
export RAY_grpc_client_keepalive_time_ms=10000
export RAY_grpc_client_keepalive_timeout_ms=5000
export RAY_health_check_initial_delay_ms=5000
export RAY_health_check_period_ms=1000
export RAY_health_check_timeout_ms=2000
export RAY_health_check_failure_threshold=4
