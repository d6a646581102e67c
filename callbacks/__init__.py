"""What watches a run: samples, rollouts, exports, records and throughput."""
