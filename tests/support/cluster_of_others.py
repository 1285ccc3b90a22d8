"""A Ray cluster that others run: `python -m support.cluster_of_others` prints its address and ends with its input."""

import sys

from ray.cluster_utils import Cluster

NODE = {"num_cpus": 2, "object_store_memory": 80 * 1024 * 1024, "include_dashboard": False}


def main():
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    print(cluster.address, flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
