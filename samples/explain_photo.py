"""Explain one photo with an explainer file, as an application would.

python samples/explain_photo.py EXPLAINER PHOTO FOLDER

Needs only the runtime: pip install 'klieg[cpu]'
"""

import sys

from klieg import Explainer


def main(explainer_file: str, photo: str, folder: str) -> None:
    """Explain the predicted class, then another one."""
    with Explainer(explainer_file) as explainer:
        explanation = explainer.explain([photo])
        runner_up = int(explanation.logits[0].argsort()[-2])
        other = explainer.explain([photo], target=runner_up, method="gradcam")

    label = int(explanation.targets[0])
    print(f"{explanation.class_name(label)}: {explanation.probabilities[0, label]:.1%}")
    print(f"scales that agree: {explanation.scales_used[0].sum()} of {len(explanation.scales)}")
    print(f"overlay: {explanation.save(folder)[0]}")

    saliency = explanation.on_image(0)  # [H, W] on the photo's own pixels
    assert saliency.shape == explanation.photos[0].shape[:2]
    assert saliency.min() >= 0
    assert saliency.max() <= 1
    assert other.targets[0] == runner_up != label


if __name__ == "__main__":
    main(*sys.argv[1:])
