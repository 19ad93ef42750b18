/** The namespaces that tests are in are those of the benchmark. */
export { NetworkBed, type Role, type Topology, whyNoNamespaces } from '../../bench/network-bed.ts';
