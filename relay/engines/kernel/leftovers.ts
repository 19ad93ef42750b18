/** What dead relays left attached and pinned, and its removal. */
import type { Libc } from '../../../net/linux/libc.ts';
import { RelayError } from '../../../net/relay-error.ts';
import { detach } from './attach.ts';
import { isBpffs, PinDirectory } from './bpffs.ts';
import { Bpf } from './loader.ts';
import { takeNameOfDead } from './name-lock.ts';

/** Names of relays that have something there, running ones among them. */
export function leftoverNames(bpffs: string): readonly string[] {
  return isBpffs(bpffs) ? PinDirectory.names(bpffs) : [];
}

/**
 * Takes a dead relay's programs off their interfaces and frees its maps; its players' next datagrams find nobody.
 *
 * @returns the hooks that were freed, as `eth0-ingress`; undefined when nothing was left
 * @throws RelayError TICKRELAY_ERR_ENGINE when the relay runs
 */
export function removeLeftover(libc: Libc, bpffs: string, name: string): readonly string[] | undefined {
  if (!leftoverNames(bpffs).includes(name)) return undefined;
  const pins = new PinDirectory(bpffs, name);
  const lock = takeNameOfDead(libc, pins.path);
  if (lock === undefined) {
    if (!leftoverNames(bpffs).includes(name)) return undefined;
    throw new RelayError(
      'TICKRELAY_ERR_ENGINE',
      `the relay "${name}" runs, and detaches by itself when it ends; end it first`,
    );
  }
  const bpf = new Bpf(libc);
  try {
    const links = pins.links();
    for (const link of links) {
      const fd = bpf.open(pins.linkPath(link));
      if (fd === undefined) continue;
      detach(bpf, fd);
      bpf.closeFd(fd);
    }
    pins.remove();
    return links;
  } finally {
    bpf.close();
    lock.release();
  }
}
