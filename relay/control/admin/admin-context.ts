/** What the routes of the admin API work with. */
import type { ConfigReloader } from '../config-reloader.ts';
import type { ControlPlane } from '../control-plane.ts';
import type { Metrics } from '../metrics.ts';
import type { RelayView } from '../relay-view.ts';

export interface AdminContext {
  readonly relay: RelayView;
  readonly control: ControlPlane;
  readonly reloader: ConfigReloader;
  readonly metrics: Metrics;
}

/** Path parameters of the routes below /v1/pools. */
export interface BackendParams {
  readonly pool: string;
  readonly id: string;
}
